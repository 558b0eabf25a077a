"""What the client lends to a build: its directories, secrets, SSH agents and credentials."""
