"""Studies: many lines measured for one question, each one function with one result and one picture."""
