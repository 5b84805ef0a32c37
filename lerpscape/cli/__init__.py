"""The words of the `lerpscape` command: each parses, makes one public call, and prints."""
