//! First causes in stores that were filled by hand.
