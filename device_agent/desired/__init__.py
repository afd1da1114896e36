"""What the operator wants: roots, deployments, fetching."""
