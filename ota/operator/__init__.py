"""An operator's side: workspace, certificates, broker, publishing, what boards report."""
