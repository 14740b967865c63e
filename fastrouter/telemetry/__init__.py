"""What the router tells about itself. Leaves of the import graph: handed in, never global."""
