"""The only place that knows the wire: .proto files, generated code, and the codec."""
