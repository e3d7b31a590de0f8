"""Parts of the operator's command line that need no CA."""
