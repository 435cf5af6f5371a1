//! stand-in until filled
