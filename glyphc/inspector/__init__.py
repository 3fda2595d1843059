"""Reports about compiled programs: one typed report, written as JSON, Graphviz or a self-contained HTML page."""
