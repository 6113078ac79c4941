"""Status page, health and metrics over HTTP, and the local socket for the command line. Shows; decides nothing."""
