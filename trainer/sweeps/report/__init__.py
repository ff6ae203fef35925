"""The results of any set of runs on one page and in one table; reads files, and imports nothing that trains."""
