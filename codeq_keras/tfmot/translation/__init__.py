"""Models and layers from Keras 3 to tf_keras and back."""
