"""The long proof that no update is lost and none counts twice, whatever is killed."""
