//! Tests about the code: layering, purity, documentation.
