"""Where models lie (MDO, paper II-B): which hosts carry replicas, and who asks which of them."""
