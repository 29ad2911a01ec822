#include "cli/output.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include "cli/exit_code.h"
#include "client/report_json.h"

namespace relive::cli {

namespace {

bool wants_color(int fd) {
  const char* no_color = std::getenv("NO_COLOR");
  const char* terminal = std::getenv("TERM");
  return ::isatty(fd) == 1 && (no_color == nullptr || *no_color == '\0') && terminal != nullptr &&
         std::strcmp(terminal, "dumb") != 0;
}

std::string_view escape(Color color) {
  switch (color) {
    case Color::plain:
      return "";
    case Color::bold:
      return "\033[1m";
    case Color::dim:
      return "\033[2m";
    case Color::red:
      return "\033[31m";
    case Color::green:
      return "\033[32m";
    case Color::yellow:
      return "\033[33m";
    case Color::cyan:
      return "\033[36m";
  }
  return "";
}

std::string painted(bool colors, Color color, std::string_view text) {
  if (!colors || color == Color::plain) return std::string(text);
  return fmt::format("{}{}\033[0m", escape(color), text);
}

bool is_number(std::string_view cell) {
  return !cell.empty() && std::ranges::all_of(cell, [](unsigned char c) { return std::isdigit(c) != 0 || c == '.'; });
}

Result<void> write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("write", "to stdout");
    text.remove_prefix(static_cast<std::size_t>(n));
  }
  return {};
}

}  // namespace

Output::Output(bool json, std::uint64_t started_ns)
    : json_(json),
      colors_(!json && wants_color(STDOUT_FILENO)),
      error_colors_(wants_color(STDERR_FILENO)),
      started_ns_(started_ns) {}

std::uint64_t Output::total_us() const {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return (static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec) -
          started_ns_) /
         1000;
}

std::string Output::paint(Color color, std::string_view text) const { return painted(colors_, color, text); }

void Output::line(std::string_view text) { text_.append(text).append("\n"); }

void Output::diagnostic(std::string_view text) const {
  const std::string line = std::string(text) + "\n";
  if (const auto written = write_all(STDERR_FILENO, line); !written) return;  // nowhere left to say it
}

void Output::explain(std::string_view command, const Error& error) const {
  Error without_hint = error;
  without_hint.hint.clear();
  diagnostic(fmt::format("{}: {}", painted(error_colors_, Color::red, command), printable(without_hint.text())));
  if (!error.hint.empty()) diagnostic(fmt::format("  {}", painted(error_colors_, Color::dim, printable(error.hint))));
}

void Output::error(std::string_view command, const Error& error) {
  explain(command, error);
  if (json_) line(client::error_json(error, static_cast<int>(exit_code(error.kind))));
}

Result<void> Output::flush() {
  const std::string text = std::exchange(text_, {});
  return write_all(STDOUT_FILENO, text);
}

std::size_t visible_width(std::string_view text) {
  std::size_t width = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\033') {
      while (i < text.size() && text[i] != 'm') ++i;
      continue;
    }
    if ((static_cast<unsigned char>(text[i]) & 0xC0U) != 0x80U) ++width;
  }
  return width;
}

std::string printable(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f)
      out += fmt::format("\\x{:02x}", byte);
    else
      out += c;
  }
  return out;
}

std::vector<std::string> Table::lines(std::size_t indent) const {
  std::vector<std::size_t> widths(rows_.front().size());
  std::vector<bool> right(widths.size(), true);
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    for (std::size_t c = 0; c < widths.size() && c < rows_[r].size(); ++c) {
      widths[c] = std::max(widths[c], visible_width(rows_[r][c]));
      if (r > 0 && !is_number(rows_[r][c])) right[c] = false;
    }
  }
  const bool headless = std::ranges::all_of(rows_.front(), [](const auto& cell) { return cell.empty(); });
  std::vector<std::string> out;
  for (std::size_t r = headless ? 1 : 0; r < rows_.size(); ++r) {
    std::string text(indent, ' ');
    for (std::size_t c = 0; c < rows_[r].size(); ++c) {
      const std::string& cell = rows_[r][c];
      const std::string padding(widths[c] - visible_width(cell), ' ');
      if (c > 0) text += "  ";
      text += right[c] ? padding + cell : cell + padding;
    }
    while (text.ends_with(' ')) text.pop_back();
    out.push_back(std::move(text));
  }
  return out;
}

std::string count(std::uint64_t number, std::string_view one, std::string_view many) {
  return fmt::format("{} {}", number, number == 1 ? one : many);
}

std::string milliseconds(std::uint64_t us) { return fmt::format("{:.2f} ms", static_cast<double>(us) / 1000.0); }

std::string bytes_text(std::uint64_t bytes) {
  if (bytes < 1024) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes);
  std::string_view unit;
  for (const std::string_view next : {"KiB", "MiB", "GiB", "TiB", "PiB"}) {
    unit = next;
    value /= 1024.0;
    if (value < 1024.0) break;
  }
  return fmt::format("{:.1f} {}", value, unit);
}

}  // namespace relive::cli
