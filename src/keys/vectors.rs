//! Published vectors, each under the name of the document that has it.
