// Where commands write: text or one JSON object on stdout, diagnostics on stderr.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace relive::cli {

enum class Color : std::uint8_t { plain, bold, dim, red, green, yellow, cyan };

class Output {
 public:
  Output(bool json, std::uint64_t started_ns);

  [[nodiscard]] bool json() const { return json_; }
  // Microseconds since the command was started.
  [[nodiscard]] std::uint64_t total_us() const;

  // `text` in a colour where stdout is a terminal that wants colours (NO_COLOR, TERM=dumb).
  [[nodiscard]] std::string paint(Color color, std::string_view text) const;
  // A line on stdout; the newline is added.
  void line(std::string_view text);
  // A line on stderr.
  void diagnostic(std::string_view text) const;
  // An error as text on stderr.
  void explain(std::string_view command, const Error& error) const;
  // The same, and with --json also {"error": ...} on stdout.
  void error(std::string_view command, const Error& error);
  // Writes out what was said. ErrorKind::system if stdout does not take it.
  Result<void> flush();

 private:
  bool json_ = false;
  bool colors_ = false;
  bool error_colors_ = false;
  std::uint64_t started_ns_ = 0;
  std::string text_;
};

// Columns, each as wide as its widest cell (of visible characters). Numbers are aligned to the right.
class Table {
 public:
  explicit Table(std::vector<std::string> head) { rows_.push_back(std::move(head)); }
  void row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  [[nodiscard]] bool empty() const { return rows_.size() == 1; }
  // Lines without newline. `indent` spaces before each; no head where all its cells are empty.
  [[nodiscard]] std::vector<std::string> lines(std::size_t indent = 0) const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// How many characters of `text` are seen: no escape sequences, UTF-8 counted by code points.
std::size_t visible_width(std::string_view text);
// Text of a task for a terminal: control characters as \xNN.
std::string printable(std::string_view text);

std::string count(std::uint64_t number, std::string_view one, std::string_view many);  // "1 page", "12 pages"
std::string milliseconds(std::uint64_t us);                                            // "0.84 ms"
std::string bytes_text(std::uint64_t bytes);                                           // "4.0 KiB"

}  // namespace relive::cli
