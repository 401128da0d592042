//! Capture, shipping, restore and follow
