//! HTTP fields that every hop must treat alike (RFC 9110).
