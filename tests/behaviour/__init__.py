"""What users are promised, seen from outside: real processes, real sockets."""
