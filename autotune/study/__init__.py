"""A study on disk: record, driver, run, resume, test."""
