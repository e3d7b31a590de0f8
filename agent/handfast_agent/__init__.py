"""The sidecar: enrols a workload, keeps its key local, rotates on schedule, keeps revocations fresh."""
