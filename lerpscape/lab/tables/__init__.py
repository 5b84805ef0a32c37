"""Tables of the runs in a store: records, tables, text formats and figures."""
