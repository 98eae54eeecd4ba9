"""Programs and their differences as text, and the bytes they send. Imports ir and what lies below it."""
