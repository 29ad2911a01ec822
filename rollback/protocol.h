// Values <-> bytes on the keeper's socket. The messages are declared in keeper.proto; nobody else sees them.
//
// Everything received is checked: lengths are bounded, enumerations are in range. What is malformed comes back as an
// Error and harms nobody.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/fault.h"
#include "base/result.h"
#include "rollback/engine.h"
#include "rollback/registry.h"
#include "rollback/show.h"

namespace relive::rollback {

inline constexpr std::uint32_t kProtocolVersion = 1;
inline constexpr std::size_t kRequestLimit = std::size_t{64} << 10;    // bytes
inline constexpr std::size_t kResponseLimit = std::size_t{256} << 20;  // bytes

struct DiffOptions {
  std::string name;
};
struct ListOptions {};
struct ShowOptions {
  std::string name;
};
struct ImageOptions {
  std::string name;
  std::string directory;  // absolute
};
struct DropOptions {
  std::string name;  // empty with `all`
  bool all = false;
};

struct Request {
  TaskKey key;
  std::string fault;  // RELIVE_FAULT of the command, not parsed yet
  // SnapshotOptions::name may be empty: the keeper then finds one.
  std::variant<SnapshotOptions, RollbackOptions, DiffOptions, ListOptions, ShowOptions, DropOptions, ImageOptions>
      command;
};

struct ListReport {
  std::vector<SnapshotInfo> snapshots;
};
struct DropReport {
  std::vector<std::string> dropped;
};

// Before the report, any number of these.
struct ImageProgress {
  std::uint64_t done = 0;  // bytes of contents
  std::uint64_t all = 0;
};
struct ImageReport {
  std::string directory;
  std::uint64_t pages = 0;
  std::uint64_t bytes = 0;
  std::uint64_t us = 0;
  std::uint64_t faults_passed = 0;
};

using Answer = std::variant<SnapshotReport, RollbackReport, DiffReport, ListReport, ShowReport, DropReport,
                            ImageProgress, ImageReport>;

std::string encode(const Request& request);
std::string encode(const Result<Answer>& response);
// Errors: usage for malformed bytes, unsupported for another version of the protocol.
Result<Request> decode_request(std::string_view bytes);
// The other side's error, or ours where the bytes are malformed (system).
Result<Answer> decode_response(std::string_view bytes);

std::string encode(const Error& error);
Result<Error> decode_error(std::string_view bytes);

// One message on a stream socket or pipe. Interrupted and partial transfers are continued.
Result<void> send_frame(int fd, std::string_view bytes);
// Errors: not_found where the other side closed before the first byte; system for anything else, and for more than
// `limit` bytes.
Result<std::string> receive_frame(int fd, std::size_t limit);

}  // namespace relive::rollback
