"""One step of a compiled program on one rank. Imports the pipeline of passes, and what lies below it."""
