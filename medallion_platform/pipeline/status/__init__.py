"""What is told of tables without working on them: what is out of date, how fresh the rows are."""
