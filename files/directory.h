// One directory whose contents go back: what `snapshot --files DIR` keeps. docs/files.md tells the whole story.
//
// It knows nothing of tasks. Who calls sees to it that those who write there stand still in every call but drop().
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "files/decide.h"
#include "files/put_back.h"
#include "files/scan.h"
#include "files/store.h"
#include "files/tree.h"

namespace relive::files {

// A saved state. Belongs to the Directory that gave it; given back with drop().
struct Saved {
  std::uint64_t number = 0;
  Tree tree;
  std::uint64_t files = 0;  // regular files
  std::uint64_t bytes = 0;  // in them
  bool shared = false;      // the file system keeps one set of blocks for files and copies
};

enum class Sign : std::uint8_t { added, removed, changed };

struct Change {
  Sign sign = Sign::changed;
  std::string path;  // from the root of the system
  std::string text;
};

// What differs from a saved state, and what would be done. Good until somebody runs on.
struct Look {
  Tree living;
  Work work;
  std::vector<Obstacle> obstacles;  // with one of them nothing is put back
};

class Directory {
 public:
  // `path`: absolute, of a directory that is there. `store`: a directory for the copies; empty: beside it.
  static Result<std::unique_ptr<Directory>> open(const std::string& path, const std::string& store);

  // What became of those who write there when the process that put back had died.
  enum class Others : std::uint8_t { wait, run };
  // Goes to the end of what was broken off in a Directory of another process that has died; nothing to do is no error.
  // Where the others run on, and no step had been taken, they run on as if nothing had been asked: then nothing is.
  static Result<Done> finish(const std::string& path, const std::string& store, Others others);
  // True where finish() has something to do.
  static bool unfinished(const std::string& path, const std::string& store);
  // The same, whoever's it is: also of this process.
  static bool has_journal(const std::string& path, const std::string& store);

  // Saves what is there now. `mapped`: inode numbers of files that are mapped to be written: their change times tell
  // less. Costs what is there, less what an earlier state has already.
  // Errors: refused, naming what cannot be saved; busy, where somebody changes a file meanwhile. Nothing is kept then.
  Result<Saved> take(const Suspects& mapped);

  // Compares. Changes nothing. `mapped` as above, at this time.
  Result<Look> look(const Saved& saved, const Suspects& mapped) const;
  [[nodiscard]] std::vector<Change> changes(const Saved& saved, const Look& look) const;

  // Opens the journal: from here on a death of this process is known to have hit a way back. REQUIRES: `look` has no
  // obstacles. Errors: busy, where somebody has changed what look() saw; the journal is closed then.
  Result<void> prepare(const Saved& saved, const Look& look);
  // Closes it again, where nothing was changed.
  void cancel();
  // Puts back. REQUIRES: prepare(). Every failure leaves the directory half put back and the journal open: put_back()
  // with a new look, or finish(), goes to the end.
  Result<Done> put_back(Saved& saved, const Look& look);

  void drop(const Saved& saved);

  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  Directory(std::string path, UniqueFd top, Store store);
  Result<void> save_contents(Paths& paths, const std::string& path, Node& node, const Suspects& mapped, Saved& saved);
  [[nodiscard]] Result<std::vector<Obstacle>> obstacles(const Saved& saved, const Look& look) const;
  [[nodiscard]] Result<void> nobody_has_written(const Look& look) const;
  Result<void> note_change_times(Saved& saved, const Work& work);
  void note(const Node& node);
  void forget(const Node& node);

  // What is known to hold the contents of a living inode: a second state shares the first one's copy.
  struct Known {
    Time born;
    Time changed;
    std::uint64_t copy = 0;
  };

  std::string path_;
  UniqueFd top_;
  Store store_;
  std::uint64_t last_number_ = 0;
  bool fine_times_ = false;                        // two changes never have one change time
  bool mapped_writes_show_ = false;                // writing through a mapping changes the change time
  std::map<std::uint64_t, std::uint64_t> links_;   // inode: how many states have it
  std::map<std::uint64_t, std::uint64_t> copies_;  // number: how many states have it
  std::map<std::uint64_t, Known> known_;
};

}  // namespace relive::files
