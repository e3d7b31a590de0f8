"""What ``handfast doctor`` looks at, one module a group: each yields checks, and never raises what a person can mend."""
