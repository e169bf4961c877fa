#include "signature.hpp"

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "errors.hpp"
#include "manifest.hpp"
#include "sha256.hpp"

namespace ntre {

namespace {

constexpr std::size_t kKeyBytes = 32, kSignatureBytes = 64;
constexpr std::uint64_t kMaxPemBytes = 1 << 16;
constexpr char kNewKey[] = "make a pair with `ntre sign --new-key KEY.pem`";
// what stands before the key in an Ed25519 SubjectPublicKeyInfo (RFC 8410), of which fingerprints are made
constexpr char kDer[] = "\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21";

struct Free {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};
using Bio = std::unique_ptr<BIO, Free>;
using Key = std::unique_ptr<EVP_PKEY, Free>;
using Context = std::unique_ptr<EVP_MD_CTX, Free>;

std::string fingerprint(const std::string& key) {
  // the last byte of the prefix is a zero, which ends a literal
  return sha256(std::string(kDer, sizeof kDer) + key);
}

std::string raw_key(const fs::path& path) {
  std::error_code failed;
  const std::string what = path.string();
  if (!fs::is_regular_file(path, failed))
    throw input_error("Key " + what + " does not exist or is not a file; " + kNewKey + ".");
  const std::string content = read_file(path, "Key", kMaxPemBytes);
  if (content.find("PRIVATE KEY") != std::string::npos)
    throw input_error(what + " is a private key, which signs; trust the public one, such as KEY.pub.pem.");
  const Bio bio(BIO_new_mem_buf(content.data(), static_cast<int>(content.size())));
  const Key key(bio ? PEM_read_bio_PUBKEY(bio.get(), nullptr, nullptr, nullptr) : nullptr);
  if (!key) throw input_error(what + " is no public key as PEM; " + kNewKey + ".");
  unsigned char raw[kKeyBytes];
  std::size_t length = sizeof raw;
  if (EVP_PKEY_base_id(key.get()) != EVP_PKEY_ED25519 || EVP_PKEY_get_raw_public_key(key.get(), raw, &length) != 1 ||
      length != kKeyBytes)
    throw input_error(what + " is a key of another kind, and Ed25519 is expected; " + kNewKey + ".");
  return std::string(reinterpret_cast<const char*>(raw), length);
}

bool is_signed(std::string_view content, const std::string& value, const std::string& raw) {
  const auto bytes = [](std::string_view text) { return reinterpret_cast<const unsigned char*>(text.data()); };
  const Key key(EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, bytes(raw), raw.size()));
  const Context context(EVP_MD_CTX_new());
  return key && context && EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, key.get()) == 1 &&
         EVP_DigestVerify(context.get(), bytes(value), value.size(), bytes(content), content.size()) == 1;
}

// the key and the signature; both empty without a file
std::pair<std::string, std::string> read_signature(const fs::path& folder) {
  const fs::path path = folder / kSignature;
  std::error_code failed;
  if (fs::symlink_status(path, failed).type() == fs::file_type::not_found) return {};
  if (!is_plain_file(path))
    throw input_error(path.string() + " is no plain file, as a signature is; copy the bundle again or sign it again.");
  const auto size = fs::file_size(path, failed);
  std::string content;
  if (size == kKeyBytes + kSignatureBytes) content = read_file(path, "Signature");
  if (content.size() != kKeyBytes + kSignatureBytes)
    throw input_error(path.string() + " has " + std::to_string(size) + " bytes where a signature has " +
                      std::to_string(kKeyBytes + kSignatureBytes) + "; copy the bundle again or sign it again.");
  return {content.substr(0, kKeyBytes), content.substr(kKeyBytes)};
}

}  // namespace

void check_signature_form(const fs::path& folder) { read_signature(folder); }

void check_signature(const fs::path& folder, std::string_view manifest, const std::vector<fs::path>& trusted) {
  std::vector<std::string> keys, known;
  for (const fs::path& path : trusted) keys.push_back(raw_key(path));
  if (keys.empty())
    throw input_error("A signature is demanded, and no key is trusted; name the public key of who signs.");
  for (const auto& key : keys) known.push_back(fingerprint(key));
  const auto [key, value] = read_signature(folder);
  const std::string bundle = folder.string();
  if (value.empty())
    throw input_error("Bundle " + bundle +
                      " is not signed, and a signature is demanded; take it from who made it, or sign it with `ntre "
                      "sign " +
                      bundle + " --key KEY.pem`.");
  if (std::find(keys.begin(), keys.end(), key) == keys.end())
    throw input_error("Bundle " + bundle + " is signed with the key " + fingerprint(key) + ", which is not trusted (" +
                      joined(known) + " is).");
  if (!is_signed(manifest, value, key))
    throw input_error("The signature of " + bundle +
                      " is not of its manifest: one of them has been changed; take the bundle again from who made "
                      "it.");
}

}  // namespace ntre
