"""Tables of the runs in a store: records, groups, formats and pictures."""
