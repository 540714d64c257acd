"""Getting data sets: where their archives lie, how a file is fetched, and how it is unpacked."""
