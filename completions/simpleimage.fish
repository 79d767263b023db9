# SPDX-License-Identifier: BSD-2-Clause
# Completions of simpleimage for fish. The program itself knows the words: commands, variants, images and types.

function __simpleimage_words
    set -l lines (command simpleimage __complete (commandline -opc) (commandline -ct) 2>/dev/null)
    set -l kind $lines[1]
    set -e lines[1]
    test (count $lines) -gt 0; and printf '%s\n' $lines
    test "$kind" = files; and __fish_complete_path (commandline -ct)
end

complete --command simpleimage --no-files --arguments '(__simpleimage_words)'
