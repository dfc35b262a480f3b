"""Health checks: what load balancers and orchestrators ask, and the answers."""
