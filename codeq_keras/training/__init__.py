"""The forces on a training: schedule, penalties, weight decay."""
