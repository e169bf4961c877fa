// Signatures of bundles, as Python's `runtime.signature`: `manifest.sig` is 96 bytes, the public key of the signer (32)
// and its Ed25519 signature (64) of the bytes of `manifest.json` as they are.
#pragma once

#include <string_view>
#include <vector>

#include "files.hpp"

namespace ntre {

// Sees that what lies under the signature's name is one by its form; nothing is compared with it.
// Throws an input error: it is no plain file, or not of its size.
void check_signature_form(const fs::path& folder);

// Demands that one of the keys (PEM files of public Ed25519 keys) has signed the manifest.
// Throws an input error: there is no signature, it is another key's or of other bytes, or a file is no such key.
void check_signature(const fs::path& folder, std::string_view manifest, const std::vector<fs::path>& trusted);

}  // namespace ntre
