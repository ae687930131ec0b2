//! HTTP/3.
