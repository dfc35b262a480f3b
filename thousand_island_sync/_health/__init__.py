"""What balancers and orchestrators ask a server, and how they are answered."""
