"""`coder support bundle`: everything a maintainer needs, without secrets, in one file."""
