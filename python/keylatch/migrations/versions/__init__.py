"""The revisions, a file each. What one of them says is never changed again."""
