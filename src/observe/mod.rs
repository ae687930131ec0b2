//! What the process says about itself: log, access log, metrics. Consumes events, decides nothing.
