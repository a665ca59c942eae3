"""The native CPU backend: C++17 text, compiled on first use by `optc.runtime.native_build`."""
