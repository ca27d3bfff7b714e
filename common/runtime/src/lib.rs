//! What every server shell shares: configuration, command line, admin socket, TLS, HTTP, logs, metrics.
