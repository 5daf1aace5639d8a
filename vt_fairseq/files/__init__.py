"""Reading and writing files: whole or not at all, in bounded memory, running nothing in them."""
