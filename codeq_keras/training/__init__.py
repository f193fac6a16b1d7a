"""What drives the training: schedule, penalties, weight decay."""
