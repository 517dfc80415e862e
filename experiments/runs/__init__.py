"""What each command does: functions that return results."""
