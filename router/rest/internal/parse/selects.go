package parse

// An Item is one piece of select=: a column, "*", an aggregate, or an embed with items of its own.
type Item struct {
	Alias   string
	Star    bool
	Field   Field
	Cast    string
	Agg     string // sum, avg, min, max, count; with an empty Field: count()
	AggCast string

	Embed  bool
	Spread bool
	Target string
	Hint   string
	Join   string // "", inner, left
	Items  []Item
}

type selectReader struct {
	*scanner
	items, embeds int
}

func readSelect(value string) ([]Item, *Error) {
	r := &selectReader{scanner: scan("select parameter", value)}
	return r.list(0) // what stands behind an embed is not looked at
}

func (r *selectReader) list(depth int) ([]Item, *Error) {
	if depth > maxEmbedDepth {
		return nil, tooDeep("an embed", maxEmbedDepth)
	}
	items := []Item{}
	r.blanks()
	if depth > 0 && r.at(")") {
		return items, nil
	}
	for {
		r.blanks()
		item, err := r.item(depth)
		if err != nil {
			return nil, err
		}
		items = append(items, item)
		if r.items++; r.items > maxItems {
			return nil, tooMany("select items", maxItems)
		}
		r.blanks()
		if !r.take(",") {
			return items, nil
		}
	}
}

func (r *selectReader) item(depth int) (Item, *Error) {
	var it Item
	if r.take("*") {
		it.Star = true
		return it, r.end()
	}
	it.Spread = r.take("...")
	start := r.pos
	name, err := r.name()
	if err != nil {
		return it, err
	}
	if !it.Spread && r.at(":") && !r.at("::") {
		r.pos++
		it.Alias = name
		start = r.pos
		if name, err = r.name(); err != nil {
			return it, err
		}
	}
	if r.at("!") || r.at("(") && (name != "count" || !r.at("()")) {
		return r.embed(it, name, depth)
	}
	if it.Spread {
		return it, r.fail(`"!"`, `"("`)
	}
	r.pos = start
	return r.column(it)
}

// column reads name[->path][::cast][.aggregate()[::cast]], or count().
func (r *selectReader) column(it Item) (Item, *Error) {
	if r.take("count()") {
		it.Agg = "count"
		return r.aggregateCast(it)
	}
	var err *Error
	if it.Field, err = r.field(); err != nil {
		return it, err
	}
	if r.take("::") {
		if it.Cast, err = r.cast(); err != nil {
			return it, err
		}
	}
	if r.take(".") {
		for _, agg := range []string{"sum", "avg", "count", "min", "max"} {
			if r.take(agg + "()") {
				it.Agg = agg
				return r.aggregateCast(it)
			}
		}
		return it, r.fail(`"sum()"`, `"avg()"`, `"count()"`, `"max()"`, `"min()"`)
	}
	return it, r.end()
}

func (r *selectReader) aggregateCast(it Item) (Item, *Error) {
	if r.take("::") {
		var err *Error
		if it.AggCast, err = r.cast(); err != nil {
			return it, err
		}
	}
	return it, r.end()
}

// end looks for what may follow an item.
func (r *selectReader) end() *Error {
	r.blanks()
	if r.done() || r.at(",") || r.at(")") {
		return nil
	}
	return r.fail(`"->"`, `"::"`, `"."`, `","`, endOfInput)
}

func (r *selectReader) embed(it Item, name string, depth int) (Item, *Error) {
	it.Embed, it.Target = true, name
	for r.take("!") {
		word, err := r.name()
		if err != nil {
			return it, err
		}
		if word == "inner" || word == "left" {
			it.Join = word
		} else {
			it.Hint = word
		}
	}
	if !r.take("(") {
		return it, r.fail(`"!"`, `"("`)
	}
	if r.embeds++; r.embeds > maxEmbeds {
		return it, tooMany("embeds", maxEmbeds)
	}
	var err *Error
	if it.Items, err = r.list(depth + 1); err != nil {
		return it, err
	}
	if !r.take(")") {
		return it, r.fail(`","`, `")"`)
	}
	return it, nil
}
