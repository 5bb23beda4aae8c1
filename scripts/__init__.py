"""Small programs for people; each says in its first lines how it is called."""
