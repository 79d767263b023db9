# SPDX-License-Identifier: BSD-2-Clause
# Completions of simpleimage for bash. The program itself knows the words: commands, variants, images and types.

_simpleimage() {
	local line=$COMP_LINE words=() piece current strip kind value i
	for ((i = 0; i <= COMP_CWORD; i++)); do
		piece=${COMP_WORDS[i]}
		# bash takes words apart at = and :, the program doesn't: pieces without a blank between them are one word.
		if [[ $i -gt 0 && -n $piece && -n $line && $line == "$piece"* ]]; then
			words[${#words[@]} - 1]+=$piece
		else
			words+=("$piece")
			line=${line#"${line%%[![:space:]]*}"}
		fi
		line=${line#"$piece"}
	done
	current=${words[${#words[@]} - 1]}
	piece=${COMP_WORDS[COMP_CWORD]}
	# What bash does not take for a part of this word.
	case $piece in
	= | :) strip=$current ;;
	*) strip=${current%"$piece"} ;;
	esac
	COMPREPLY=()
	{
		read -r kind
		while IFS=$'\t' read -r value _; do
			COMPREPLY+=("${value#"$strip"}")
		done
	} < <(command simpleimage __complete "${words[@]}" 2>/dev/null)
	# Outside of a completion there is nothing to set.
	[[ $kind != files || ${#COMPREPLY[@]} -gt 0 ]] || compopt -o default -o bashdefault 2>/dev/null || :
	[[ ${#COMPREPLY[@]} -ne 1 || ${COMPREPLY[0]} != *= ]] || compopt -o nospace 2>/dev/null || :
}

complete -F _simpleimage simpleimage
