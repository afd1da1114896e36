"""The desired state: roots, deployments, fetching."""
