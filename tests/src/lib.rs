//! What the VM tests share.
