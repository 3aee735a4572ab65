"""What people run a server for. Each service is built on the session contract alone."""
