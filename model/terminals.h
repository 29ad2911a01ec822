// Terminals: consoles, serial lines, and both ends of pseudo-terminals (pty(7), ioctl_tty(2)).
//
// What is set belongs to the terminal, not to the open file: every open file of one terminal tells the same.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "model/files.h"
#include "model/words.h"

namespace relive::model {

// struct termios2 of the kernel (asm/termbits.h), as TCGETS2 fills it.
inline constexpr std::size_t kTerminalModesBytes = 44;
using TerminalModes = std::array<std::byte, kTerminalModesBytes>;

struct WindowSize {
  std::uint16_t rows = 0;
  std::uint16_t columns = 0;
  std::uint16_t width = 0;  // in pixels
  std::uint16_t height = 0;
  bool operator==(const WindowSize&) const = default;
};

struct Terminal {
  std::string path;           // "/dev/pts/3", "/dev/ptmx", "/dev/tty"
  FileIdentity identity;      // of the device file
  std::uint64_t created = 0;  // its ctime, ns: the kernel uses the numbers of pseudo-terminals again
  std::uint64_t device = 0;   // the terminal (TIOCGDEV); both ends of a pseudo-terminal tell the slave's
  bool master = false;        // the end that a terminal emulator holds
  bool inside = false;        // both ends are open in the task
  bool hung_up = false;       // its other end, or its line, is gone for good; then nothing below is known

  TerminalModes modes{};
  WindowSize window;
  std::int32_t discipline = 0;  // TIOCGETD
  bool exclusive = false;       // TIOCGEXCL
  bool controlling = false;     // it is the controlling terminal of the task
  bool foreground = false;      // ... and the foreground process group is the task's, or of another one of the tree
  std::int32_t front = 0;       // ... and the foreground process group's id, in relive's own pid namespace
  bool packets = false;         // masters: packet mode, TIOCGPKT
  bool locked = false;          // masters: the slave cannot be opened, TIOCGPTLCK
  bool status_pending = false;  // masters: a status byte of packet mode waits to be read
  std::uint32_t unread = 0;     // bytes that a read would give now (FIONREAD: of complete lines only, if it reads
                                // lines)
  bool operator==(const Terminal&) const = default;
};
Words words(const Terminal& terminal);

// Do the modes, or the window size, of the terminal go back with the task? The slave's modes are the business of the
// program at the slave; those of the controlling terminal of the one in the
// foreground.
[[nodiscard]] bool modes_go_back(const Terminal& terminal);
[[nodiscard]] bool window_goes_back(const Terminal& terminal);

// Do both name the same terminal, as far as it can be told?
[[nodiscard]] bool same_terminal(const Terminal& a, const Terminal& b);

// Why a snapshot cannot contain it, a phrase each ("has 3 unread bytes; ...").
[[nodiscard]] std::vector<std::string> not_in_a_snapshot(const Terminal& terminal);

// Does it give input line by line (ICANON)? Then a line that is not complete yet shows nowhere.
[[nodiscard]] bool reads_lines(const Terminal& terminal);

}  // namespace relive::model
